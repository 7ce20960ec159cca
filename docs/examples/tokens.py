"""A label for every word: a small tagger learns from a larger one, and padding counts nothing."""

import torch
from torch import Tensor, nn

import policykd as kd
from policykd.classifiers import Classifier
from policykd.supervised import MISSING, Rows, epochs, score

WORDS, LONGEST, TAGS = 30, 12, ("other", "begin", "inside")


class Tagger(nn.Module):
    """Words [b, t] to logits [b, t, 3], read from left to right."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.words, self.reader = nn.Embedding(WORDS, width), nn.GRU(width, width, batch_first=True)
            self.head = nn.Linear(width, len(TAGS))

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.reader(self.words(words))[0])


def sentences(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Words, tags and mask: a name begins behind a title (0 to 4) and goes on for as long as words are capitals."""
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(0, WORDS, (n, LONGEST), generator=draw)
    mask = torch.arange(LONGEST) < torch.randint(4, LONGEST + 1, (n, 1), generator=draw)
    title, capital = words < 5, words >= 15
    tags = torch.zeros_like(words)
    for t in range(1, LONGEST):
        begins = capital[:, t] & title[:, t - 1]
        inside = capital[:, t] & (tags[:, t - 1] > 0)
        tags[:, t] = torch.where(begins, 1, torch.where(inside, 2, 0))
    return words, torch.where(mask, tags, MISSING), mask


def told(tagger: Classifier) -> str:
    found = score(tagger.label_all(words_test), tags_test)
    return f"{tagger.acting_parameters:,} parameters, {found.accuracy} of {found.rows:,} words"


words, tags, mask = sentences(2000, seed=0)
words_test, tags_test, _ = sentences(500, seed=1)

learner = kd.Learner(Classifier(Tagger(16, seed=0), TAGS), kd.losses.label_nll, lr=0.01)
list(epochs(learner, Rows(words, tags, mask=mask), 12))
teacher = learner.averaged
print("teacher       ", told(teacher))

student = Classifier(Tagger(5, seed=1), TAGS)
print("student before", told(student))
learner = kd.Learner(student, kd.losses.forward_kl, lr=0.02)
unlabelled = Rows(words, torch.full_like(tags, MISSING), target=teacher.label_all(words), mask=mask)
list(epochs(learner, unlabelled, 15))
print("student after ", told(learner.averaged))
