"""A language of known rank: the rank, the entropy, the knee of heads that learn it."""

import numpy as np
import pytest
import torch

from lib.study import known_rank as task
from lib.train import known_rank


@pytest.mark.parametrize(("rank", "zipf"), [(2, 0.0), (5, 0.0), (5, 1.0)])
def test_a_language_has_its_rank_and_entropy(rank, zipf):
    learned = known_rank.language(rank, 20, 40, 2.0, zipf)
    assert torch.linalg.matrix_rank(learned.log_p, rtol=1e-10) == rank
    assert torch.allclose(learned.log_p.exp().sum(1), torch.ones(20, dtype=torch.float64))
    assert known_rank.language(rank, 20, 40, 4.0, zipf).entropy < learned.entropy < np.log(40)


def test_ranks_that_the_sizes_do_not_allow_are_refused():
    for rank, zipf in ((1, 0.0), (2, 1.0), (21, 0.0)):
        with pytest.raises(ValueError, match="for so many contexts"):
            known_rank.language(rank, 20, 40, 2.0, zipf)


def test_a_head_of_rank_less_one_learns_all_and_one_narrower_does_not():
    found = task.heads(4, 1.0, 0.0, 16, 32, 600, 2).assign(rank=4, spread=1.0, zipf=0.0)
    (row,) = task.knees(found).itertuples()
    assert (row.told, row.knee, row.cliff) == (3, 3, 3) and row.left < 1e-3 < row.last
    assert (found.gap > -1e-9).all() and set(task.rises(found).width) == {1, 2}


def test_the_gradient_is_that_of_the_loss():
    learned = known_rank.language(3, 8, 12, 1.0, 0.0)
    first, second = (known_rank.train(learned, 2, updates, 1, 1e-4, 1)[-1]["loss"] for updates in (1, 40))
    assert second < first
