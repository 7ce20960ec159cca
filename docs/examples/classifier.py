"""A classifier of your own, taught by a larger one that is asked once: your modules, your DataLoader."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import policykd as kd
from policykd.classifiers import Classifier
from policykd.supervised import Rows, WithAnswers, answers, epochs, score


class Bytes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 255


def network(channels: int, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        widths = [1, channels, 2 * channels]
        layers: list[nn.Module] = [Bytes()]
        for narrow, wide in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * channels, 10))


def told(classifier: Classifier) -> str:
    found = score(classifier.label_all(data.test.inputs), data.test.labels)
    return f"{classifier.acting_parameters:,} parameters, {found.accuracy} of {found.rows} test rows"


data = kd.datasets.find("digits")  # train, validation and test, always cut the same way
few = data.share(0.05)  # the same images, and a label for one in twenty

teacher = Classifier(network(16, seed=0), data.classes)
learner = kd.Learner(teacher, kd.losses.label_nll, lr=0.01)
list(epochs(learner, Rows(data.train.inputs, data.train.labels), 10))
teacher = learner.averaged
print("teacher   ", told(teacher))

said = answers(teacher, data.train.inputs, cache="runs/answers")  # the next run reads them there
pairs = WithAnswers(TensorDataset(few.train.inputs, few.train.labels), said.target)
loader = DataLoader(pairs, batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(0))

student = Classifier(network(4, seed=1), data.classes)
learner = kd.Learner(student, kd.losses.hard_and_soft(alpha=0.9, temperature=4.0), lr=0.01)
for update in epochs(learner, loader, 15):
    if update.step % 105 == 0:
        print(f"{update.step} updates, loss {float(update.loss):.3f}")
print("student   ", told(learner.averaged))

# In one call, with the same student taught by the few labels alone beside it:
student = Classifier(network(4, seed=1), data.classes)
report = kd.distill_classifier(
    data, teacher=teacher, student=student, labels=0.05, cache="runs/answers", epochs=15, learning_rate=0.01
)
print(report)
