"""Two teachers that each know half of the digits, fused by true labels into one, and a small student of both."""

from torch import Tensor, nn

import policykd as kd
from policykd.classifiers import Classifier, build
from policykd.classify import train_classifier
from policykd.datasets import Labelled, Split
from policykd.losses import Fusion
from policykd.supervised import score

data = kd.datasets.find("digits")


class Fused(nn.Module):
    """What two classifiers say, each listened to where it is right: logits [n, k]."""

    def __init__(self, teachers: list[Classifier], fusion: Fusion) -> None:
        super().__init__()
        self.teachers, self.fusion = nn.ModuleList(teachers), fusion

    def forward(self, x: Tensor) -> Tensor:
        return self.fusion([teacher(x) for teacher in self.teachers]).dist.logits


def expert(low: int, high: int, seed: int) -> Classifier:
    """A classifier of all ten digits that has only ever seen some."""

    def seen(rows: Split) -> Split:
        return rows[(rows.labels >= low) & (rows.labels < high)]

    some = Labelled("some", data.source, data.classes, seen(data.train), seen(data.validation), data.test)
    fresh = build("cnn:16,32x32", inputs=data.train.inputs, classes=data.classes, seed=seed, taps={"hidden": "hidden"})
    return train_classifier(fresh, some, epochs=20, learning_rate=0.005, seed=seed).student


def told(classifier: Classifier) -> str:
    found = score(classifier.label_all(data.test.inputs), data.test.labels)
    return f"{classifier.acting_parameters:,} parameters, {found.accuracy} of {found.rows} test rows"


teachers = [expert(0, 5, seed=1), expert(5, 10, seed=2)]
for teacher in teachers:
    print("expert    ", told(teacher))

# Gates for each input, learnt from a tenth of the true labels; without fit it is the mean of both.
few = data.share(0.1).train
said = [teacher.label_all(few.inputs) for teacher in teachers]
fusion = Fusion(said, feature="hidden")
print("mean      ", told(Classifier(Fused(teachers, fusion), data.classes)))
fusion.fit(said, few.labels, epochs=200, rows=64)

both = Classifier(Fused(teachers, fusion), data.classes)  # a teacher like any other
report = kd.distill_classifier(data, teacher=both, student="cnn:4,8", labels=0.1, temperature=1.0, epochs=60)
print("fused     ", told(both))
print(report)
