"""Which responses become a question's demonstrations (SPEC §5): one small module a retriever, users' own beside them.

from nopsd.selection.retrievers import retriever    # the decorator that makes one of a function
"""

from nopsd.selection.retrievers.base import NOBODY, Neighbours, Picked, Request, Retriever, retriever
from nopsd.selection.retrievers.registry import GROUP, RETRIEVERS, find_retriever

__all__ = [
    "GROUP",
    "NOBODY",
    "RETRIEVERS",
    "Neighbours",
    "Picked",
    "Request",
    "Retriever",
    "find_retriever",
    "retriever",
]
