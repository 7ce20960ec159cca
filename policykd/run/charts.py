"""TensorBoard files with the tags that SB3's users know; nothing of TensorBoard is imported until a point is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policykd.config import DistillConfig, FrontierConfig, RewardConfig, Teaching
from policykd.run.sizes import place

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Charts"]

# The page "Custom Scalars" opens on the first group; each chart shows every series with a tag that the pattern finds.
_LAYOUT = {
    "comparison: student, teacher, random": {
        "return on evaluation episodes": ["Multiline", ["eval/mean_reward"]],
        "return while collecting": ["Multiline", ["rollout/ep_rew_mean"]],
        "retention": ["Multiline", ["eval/retention"]],
    },
    "closeness to the teacher": {
        "agreement": ["Multiline", ["distill/agreement"]],
        "KL(teacher || student)": ["Multiline", ["distill/kl"]],
        "value error": ["Multiline", ["distill/value_error"]],
        "loss": ["Multiline", ["train/loss"]],
    },
}
_FRONTIER = {
    "frontier: what each size keeps": {
        "retention (step = acting parameters)": ["Multiline", ["frontier/retention"]],
        "networks, with the 95 % interval": [
            "Margin",
            [f"frontier/interval/{x}" for x in ("retention", "low", "high")],
        ],
        "µs a decision (step = acting parameters)": ["Multiline", ["frontier/latency_us"]],
    },
    "training: every size, teacher, random": {
        "retention": ["Multiline", ["eval/retention$"]],
        "return on evaluation episodes": ["Multiline", ["eval/mean_reward"]],
        "loss": ["Multiline", ["train/loss"]],
        "return while collecting": ["Multiline", ["rollout/ep_rew_mean"]],
    },
}
_CLASSES = {
    "comparison: teacher, the student alone, distilled": {
        "accuracy on validation rows": ["Multiline", ["eval/accuracy"]],
        "-log probability of the label": ["Multiline", ["eval/nll"]],
        "calibration error": ["Multiline", ["eval/ece"]],
    },
    "closeness to the teacher": {
        "agreement": ["Multiline", ["distill/agreement"]],
        "KL(teacher || student)": ["Multiline", ["distill/kl"]],
        "loss": ["Multiline", ["train/loss"]],
    },
}
LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "policy": {"student": _LAYOUT, "frontier": _FRONTIER},
    "classifier": {"student": _CLASSES},
}
"""What the page Custom Scalars shows, by what is taught and by series."""
_FLUSH_SECONDS = 10
_ALWAYS = ("learning_rate", "method", "seed", "steps")  # hparams, at their defaults too


class Charts:
    """Event files of a run: one sub-folder a series, so that the same tag is one chart with a line for each."""

    def __init__(self, folder: Path, taught: str = "policy") -> None:
        self._folder, self._layouts = folder, LAYOUTS[taught]
        self._writers: dict[str, SummaryWriter] = {}
        self._references: set[tuple[str, str]] = set()

    def _writer(self, series: str) -> SummaryWriter:
        if series not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(self._folder / series, flush_secs=_FLUSH_SECONDS)
            if series in self._layouts:
                writer.add_custom_scalars(self._layouts[series])
            self._writers[series] = writer
        return self._writers[series]

    def scalars(self, step: int, values: Mapping[str, float | None], series: str) -> None:
        """Points at ``step``; None and NaN are left out."""
        for tag, value in values.items():
            if value is not None and not math.isnan(value):
                self._writer(series).add_scalar(tag, value, step)

    def reference(self, step: int, values: Mapping[str, float], series: str) -> None:
        """Lines at ``values`` that begin at 0 and reach ``step``."""
        fresh = {tag: v for tag, v in values.items() if (series, tag) not in self._references}
        self._references |= {(series, tag) for tag in fresh}
        if step > 0:
            self.scalars(0, fresh, series)
        self.scalars(step, values, series)

    def conclude(self, report: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """The end of a distillation: lines drawn to the last step, the comparison as a text, and hparams."""
        # A dataset's run steps no environment, but its curves count the steps that its updates stand for.
        looks = [look["env_steps"] for look in report.get("history", ())]
        step = max(report["env_steps"], *looks, 0)
        self._lines_to(step, report)
        self._writer("student").add_text("comparison", _comparison(report), step)
        asked = {"env_id": report["env_id"], **_telling(config, DistillConfig(), RewardConfig())}
        if config.get("via"):
            asked["via"] = " ".join(map(str, config["via"]))
        self._hparams(asked, report, step, "student")

    def conclude_frontier(self, report: Mapping[str, Any], config: Mapping[str, Any], png: bytes | None) -> None:
        """The end of a frontier: retention against parameters (which are the step), table, picture, and hparams."""
        step = report["env_steps"]
        self._lines_to(step, report)
        for it in report["candidates"]:
            low, high = it["retention_ci"] or (None, None)
            values = {"frontier/retention": it["retention"], "frontier/latency_us": it["latency_us"]}
            band = {"retention": it["retention"], "low": low, "high": high}
            network = not it["name"].startswith("tree:")
            # A tree's parameters are not a network's: a curve of its own.
            self.scalars(it["params"], values, "frontier" if network else "frontier-trees")
            if network and low is not None:
                self.scalars(it["params"], {f"frontier/interval/{k}": v for k, v in band.items()}, "frontier")
            finals = {"retention": it["retention"], "params": it["params"], "latency_us": it["latency_us"]}
            self.scalars(step, {f"final/{k}": v for k, v in finals.items()}, place(it["name"]))
        sizes = [it["params"] for it in report["candidates"]] + [report["teacher"].get("params") or 1]
        for series, retention in (("teacher", 1.0), ("random", 0.0), ("target", report["target"])):
            for at in (min(sizes), max(sizes)):
                self.scalars(at, {"frontier/retention": retention}, series)
        writer = self._writer("frontier")
        writer.add_text("frontier", _sizes(report), step)
        if png is not None:
            _add_png(writer, "frontier", png, step)
        asked = {"env_id": report["env_id"], "chosen": report["chosen"] or "none", "target": report["target"]}
        asked["sizes"] = " ".join(it["name"] for it in report["candidates"])
        self._hparams({**_telling(config, FrontierConfig()), **asked}, report, step, "frontier")

    def conclude_classes(self, report: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """The end of a distilled classifier: test figures as last points, the comparison as a text, and hparams."""
        step = max((look["examples"] for look in report["history"]), default=0)
        rows = ["| classifier | accuracy | 95 % interval | calibration error | parameters |", "|---|---|---|---|---|"]
        for who in ("teacher", "alone", "student"):
            it = report[who]
            low, high = it["accuracy_ci"]
            rows.append(
                f"| {who} | {it['accuracy']:.4f} | {low:.4f} to {high:.4f} | {it['ece']:.4f} | {it['params']:,} |"
            )
            self.scalars(step, {f"test/{name}": it.get(name) for name in ("accuracy", "nll", "ece", "agreement")}, who)
        self._writer("student").add_text("comparison", "\n".join(rows), step)
        asked = {k: v for k, v in config.items() if isinstance(v, bool | int | float | str)}
        mine = report["student"]
        final = {"accuracy": mine["accuracy"], "gain": report["gain"], "kept": report["kept"]}
        final |= {"params": mine["params"], "bytes": mine["bytes"]}
        self._table({"data": report["data"]["name"], **asked}, {f"final/{k}": v for k, v in final.items()}, step)

    def _lines_to(self, step: int, report: Mapping[str, Any]) -> None:
        """Teacher's and random policy's lines up to the end."""
        for series, retention in (("teacher", 1.0), ("random", 0.0)):
            lines = {tag: report[series]["return_mean"] for tag in ("eval/mean_reward", "rollout/ep_rew_mean")}
            missing = {t: v for t, v in lines.items() if (series, t) not in self._references}
            self.reference(step, {**missing, "eval/retention": retention}, series)

    def _hparams(self, asked: Mapping[str, Any], report: Mapping[str, Any], step: int, series: str) -> None:
        mine = report["student"]
        final = {
            "final/retention": report["retention"],
            "final/return": mine["return_mean"],
            "final/params": mine.get("params"),
            "final/bytes": mine.get("bytes"),
            "final/agreement": report["agreement"],
        }
        self._table(asked, final, step, series)

    def _table(
        self, asked: Mapping[str, Any], final: Mapping[str, float | None], step: int, series: str = "student"
    ) -> None:
        from torch.utils.tensorboard.summary import hparams

        known = {k: float(v) for k, v in final.items() if v is not None and math.isfinite(v)}
        # SummaryWriter.add_hparams would open one more sub-run, apart from the curves that it belongs to.
        to_file: Any = self._writer(series).file_writer
        for summary in hparams(dict(asked), known):
            to_file.add_summary(summary)
        self.scalars(step, known, series)

    def close(self) -> None:
        """Write what is buffered and close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def _add_png(writer: SummaryWriter, tag: str, png: bytes, step: int) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary

    # SummaryWriter.add_image takes pixels and encodes them again. A PNG's size stands in bytes 16 to 24.
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
    to_file: Any = writer.file_writer
    to_file.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def _telling(config: Mapping[str, Any], *defaults: Teaching | RewardConfig) -> dict[str, bool | int | float | str]:
    """Numbers and texts that tell runs apart: the page shows few columns, and config.json has them all."""
    usual = {key: value for one in defaults for key, value in asdict(one).items()}
    return {
        key: value
        for key, value in config.items()
        if isinstance(value, bool | int | float | str) and (key in _ALWAYS or value != usual.get(key))
    }


def _comparison(report: Mapping[str, Any]) -> str:
    """The three policies as a Markdown table."""
    rows = ["| policy | return | 95 % interval | episodes | parameters |", "|---|---|---|---|---|"]
    for name in ("teacher", "student", "random"):
        it = report[name]
        low, high = it.get("return_ci") or (math.nan, math.nan)
        params = f"{it['params']:,}" if it.get("params") else ""
        rows.append(f"| {name} | {it['return_mean']:.2f} | {low:.2f} to {high:.2f} | {it['episodes']} | {params} |")
    return "\n".join([*rows, "", f"retention {_kept(report)} · agreement {report['agreement']:.3f}"])


def _sizes(report: Mapping[str, Any]) -> str:
    """A frontier's candidates as a Markdown table."""
    rows = ["| size | parameters | bytes | retention | episodes | µs a decision |", "|---|---:|---:|---|---:|---:|"]
    for it in report["candidates"]:
        name = f"**{it['name']}**" if it["name"] == report["chosen"] else it["name"]
        spent = "" if it["latency_us"] is None else f"{it['latency_us']:.0f}"
        rows.append(f"| {name} | {it['params']:,} | {it['bytes']:,} | {_kept(it)} | {it['episodes']} | {spent} |")
    said = f"smallest at {report['target']:g}: {report['chosen']}" if report["chosen"] else "no size reaches the target"
    return "\n".join([*rows, "", f"{said} ({report['target']:g} of the teacher's return, lower 95 % bound)"])


def _kept(it: Mapping[str, Any]) -> str:
    kept, ci = it["retention"], it["retention_ci"]
    return "n/a" if kept is None else f"{kept:.3f}" + (f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else "")
