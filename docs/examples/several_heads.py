"""One trunk, two heads: which digit from its labels, even or odd from a teacher; each task weighed by what it costs."""

import torch
from torch import Tensor, nn

import policykd as kd
from policykd.classifiers import Classifier, Heads, build
from policykd.losses import Uncertainty, by_task, forward_kl, label_nll
from policykd.supervised import MISSING, Rows, epochs, score, several


class Trunk(nn.Module):
    """Images [n, 1, 8, 8] to [n, 32]."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x.flatten(1).float() / 16))


def told(classifier: Classifier, labels: Tensor) -> str:
    found = score(classifier.label_all(data.test.inputs), labels)
    return f"{found.accuracy} of {found.rows} test rows"


data = kd.datasets.find("digits")
x, digit = data.train.inputs, data.train.labels

# A teacher of another task on the same images; the student never sees a label of it.
teacher = build("cnn:8,16", inputs=x, classes=("even", "odd"), seed=1)
learner = kd.Learner(teacher, label_nll, lr=0.01)
list(epochs(learner, Rows(x, digit % 2), 10))
teacher = learner.averaged
print("teacher, even or odd", told(teacher, data.test.labels % 2))

student = Heads(Trunk(seed=0), {"digit": data.classes, "parity": teacher.classes}, width=32)
objective = by_task({"digit": Uncertainty(label_nll), "parity": Uncertainty(forward_kl)})
learner = kd.Learner(student, objective, lr=0.01)
loaders = {"digit": Rows(x, digit), "parity": Rows(x, torch.full_like(digit, MISSING))}
for update in several(learner, loaders, 15, teachers={"parity": teacher}):
    if update.step % 55 == 0:
        shares = {name: f"{float(weight):.2f}" for name, weight in update.weights.items() if "/log" not in name}
        print(f"{update.step} updates, weights {shares}")
print("student, which digit", told(learner.averaged.task("digit"), data.test.labels))
print("student, even or odd", told(learner.averaged.task("parity"), data.test.labels % 2))
