"""amctc: a compiler for model compression that targets Huawei Ascend NPUs."""

__version__ = "0.1.0"
