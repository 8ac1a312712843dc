"""Which responses become a question's demonstrations, users' own beside ours.

from nopsd.selection.retrievers import retriever    # the decorator that makes one of a function
"""

from nopsd.selection.retrievers.base import NO_NEIGHBOR, Neighbors, NeighborsWithSamples, Request, Retriever, retriever
from nopsd.selection.retrievers.registry import GROUP, RETRIEVERS, find_retriever

__all__ = [
    "GROUP",
    "NO_NEIGHBOR",
    "RETRIEVERS",
    "Neighbors",
    "NeighborsWithSamples",
    "Request",
    "Retriever",
    "find_retriever",
    "retriever",
]
