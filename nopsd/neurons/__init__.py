"""Every neuron's contribution to each generated token (the paper's Eqs. 2 to 5): counts and sparse sets of a question.

Shapes by suffix, here and in nopsd.signals and nopsd.selection: B rows of a batch, T positions, P flat positions
(B * T), C positions of a chunk, L layers, F MLP width, W some of a layer's neurons, M neurons of all layers, K members
kept of a set, G groups, U distinct tokens, V vocabulary, H hidden size, N questions, Q queries, R rollouts.
"""
