"""The GPU runner: PyTorch for memory, Triton for kernels. Imports nothing of either by itself.

The invariant every kernel keeps: the order in which a row's sums are added depends on the model's
shape and on absolute positions only, so a row has the same bits alone and in any company.
"""
