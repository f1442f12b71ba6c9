"""Networks that come as a graph of operators, whatever their architecture."""

from worker.algorithms.graphs.convert import Converted, convert
from worker.algorithms.graphs.graph import Graph, Node, Use

__all__ = ["Converted", "Graph", "Node", "Use", "convert"]
