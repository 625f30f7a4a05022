"""Sizes of results, without computing them."""


def common_size(first, second):
    """The size of an element-wise result: the longer of the two operands."""
    return max(len(first), len(second))
