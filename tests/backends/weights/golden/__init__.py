"""Blocks that llama.cpp's own quantizers made: `blocks.npz`, made by `make`."""
