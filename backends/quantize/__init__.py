"""Quantizing a model on disk: plan which tensor gets which format, then stream it into a GGUF file."""

from __future__ import annotations

from backends.quantize.destination import DestinationFailed, DestinationRefused
from backends.quantize.identity import quantized_name
from backends.quantize.recipes import RECIPES, Recipe, UnknownFormat, recipe_by_name
from backends.quantize.report import QuantizeReport, TensorReport
from backends.quantize.run import QuantizeProgress, quantize_file

__all__ = [
    "RECIPES",
    "DestinationFailed",
    "DestinationRefused",
    "QuantizeProgress",
    "QuantizeReport",
    "Recipe",
    "TensorReport",
    "UnknownFormat",
    "quantize_file",
    "quantized_name",
    "recipe_by_name",
]
