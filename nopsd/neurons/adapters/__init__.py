"""Where the neurons are in a model, and how to see them in a forward pass.

One module a family of MLPs (`gated`, `plain`, `mixture`), one interface (`sites.MlpSite`); see `find.ADAPTERS`.
"""

from nopsd.neurons.adapters.find import find_sites
from nopsd.neurons.adapters.sites import Consumer, NeuronSites, full_shape
from nopsd.neurons.adapters.watch import watch

__all__ = ["Consumer", "NeuronSites", "find_sites", "full_shape", "watch"]
