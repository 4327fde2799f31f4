"""What values span: observed, said by normalisations, chosen by what they do further on."""
