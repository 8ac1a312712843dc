"""What the lab's model is trained on."""

import random

from nopsd.lab.episodes import sample_episode
from nopsd.lab.world import (
    split_chains,
)


def test_an_episodes_trained_solutions_follow_one_convention():
    rng, (chains, _) = random.Random(0), split_chains(0)
    for _ in range(50):
        episode = sample_episode(rng, chains, 4)
        assert len(episode.trained_demonstrations) == 4 and episode.trained_demonstrations[0]
        assert episode.messages[1]["content"].count("\nSolution: ") == 4
