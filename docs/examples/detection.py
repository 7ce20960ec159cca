"""A detector taught by a larger one: each cell of a grid says a class and a box, and both are distilled."""

import torch
from torch import Tensor, nn

import policykd as kd
from policykd.distributions import Categorical
from policykd.losses.boxes import overlap
from policykd.policy import Taught

GRID, SIZE, CLASSES = 3, 24, 3  # cells a side, pixels a side; background, filled rectangles, frames


class Detector(Taught):
    """Images [b, 1, 24, 24] to classes [b, 9, 3] and boxes [b, 9, 4], corners (x1, y1, x2, y2) as shares of a side."""

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            widths, layers = [1, channels, 2 * channels, 2 * channels], []
            for narrow, wide in zip(widths[:-1], widths[1:], strict=True):
                layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.ReLU()]
            self.net = nn.Sequential(*layers, nn.Conv2d(widths[-1], CLASSES + 4, 1))

    def read(self, batch: kd.Batch) -> kd.Prediction:
        out = self.net(batch.obs).flatten(2).movedim(1, -1)
        reach = out[..., CLASSES:].sigmoid() / GRID
        boxes = torch.cat([centres() - reach[..., :2], centres() + reach[..., 2:]], -1)
        return kd.Prediction(Categorical(out[..., :CLASSES]), features={"boxes": boxes})


def centres() -> Tensor:
    at = (torch.arange(GRID) + 0.5) / GRID
    return torch.stack([at.repeat(GRID), at.repeat_interleave(GRID)], -1)


def pictures(n: int, seed: int) -> kd.Batch:
    """Rectangles on noise; the target is the truth."""
    draw = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, CLASSES, (n, GRID**2), generator=draw)
    half = 0.06 + 0.09 * torch.rand(n, GRID**2, 2, generator=draw)
    middle = centres() + 0.05 * (2 * torch.rand(n, GRID**2, 2, generator=draw) - 1)
    boxes = torch.cat([middle - half, middle + half], -1)
    at = (torch.arange(SIZE) + 0.5) / SIZE
    x, y = at.expand(SIZE, SIZE), at.unsqueeze(-1).expand(SIZE, SIZE)
    x1, y1, x2, y2 = (side[..., None, None] for side in boxes.unbind(-1))
    inside = torch.minimum(torch.minimum(x - x1, x2 - x), torch.minimum(y - y1, y2 - y))
    shape = (inside > 0) & ((kind[..., None, None] == 1) | (inside < 1.2 / SIZE)) & (kind[..., None, None] > 0)
    image = shape.any(1, keepdim=True) + 0.25 * torch.randn(n, 1, SIZE, SIZE, generator=draw)
    truth = kd.Prediction(Categorical(torch.where(nn.functional.one_hot(kind, CLASSES) > 0, 0.0, -torch.inf)))
    return kd.Batch(image, kd.Prediction(truth.dist, features={"boxes": boxes}))


def score(detector: Detector, test: kd.Batch) -> str:
    with torch.no_grad():
        said = detector.read(test)
    kind = test.target.dist.mode()
    iou = overlap(said.features["boxes"], test.target.features["boxes"])[kind > 0].mean()
    return f"IoU {float(iou):.3f}, classes {float((said.dist.mode() == kind).float().mean()):.1%}"


def teach(detector: Detector, data: kd.Batch, steps: int) -> None:
    loss = kd.losses.weighted(
        classes=(1.0, kd.losses.forward_kl),
        overlap=(1.0, lambda student, target: kd.losses.box_iou(student, target, confidence=0.5)),
        corners=(10.0, lambda student, target: kd.losses.box_huber(student, target, delta=0.1, confidence=0.5)),
    )
    learner = kd.Learner(detector, loss, lr=lambda p: 1e-2 * (1 - p.updates / steps), average=None)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        learner.step(data[torch.randint(len(data), (48,), generator=draw)])


train, test = pictures(2000, seed=0), pictures(500, seed=1)
teacher, student = Detector(12, seed=0), Detector(4, seed=1)
teach(teacher, train, steps=180)
with torch.no_grad():
    labelled = kd.Batch(train.obs, teacher.read(train))  # from here on nobody looks at the truth
print("teacher       ", score(teacher, test))
print("student before", score(student, test))
teach(student, labelled, steps=300)
print("student after ", score(student, test))
