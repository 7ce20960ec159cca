"""Several teachers of one task: what each way of combining them earns, and what a student of it keeps.

    POLICYKD_TEACHERS=... python tests/benchmarks/teachers.py [--seeds 0 1 2 3 4] [--save FILE] [--part gates]

Three agents of LunarLander (PPO, A2C, DQN; --only names others). First table: returns as actors, on the same 400
episodes. Then the gate, trained on reward with `policykd.reinforced.train_gate`, one for each seed. Last table:
students of 64,64 at the shipped defaults, 400 reported episodes each; retention is in the scale of the best single
teacher, (student - random) / (best - random), and the difference to the student of the best single teacher is paired by
seed, with a Student-t interval. Finished cells are kept as JSON lines in --save, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import policykd as kd
from policykd.errors import PolicykdError
from policykd.evaluation import student_t_interval
from policykd.losses import Gate, calibrated, combine, sharpen

_AGENTS = ("ppo/LunarLander-v2_1", "a2c/LunarLander-v2_1", "dqn/LunarLander-v2_1")
_SAMPLE, _ACTORS = 90_000, 700_000_000
"""First seeds of the episodes that freeze scales, and of those on which actors are compared."""

REWARD = replace(kd.reinforced.GATE, gamma=0.995)


class Bench:
    """The teachers, and every way of making one of them."""

    def __init__(self, folder: Path, names: list[str], gates: Path) -> None:
        self.names, self.gates = names, gates
        self.teachers = [kd.load_teacher(folder / name) for name in names]
        self.recipe = kd.recipe.load(self.teachers[0].origin.env_id or "", wrappers=self.teachers[0].origin.wrappers)
        seen = [kd.evaluate(t, self.recipe, 4, seed=_SAMPLE, keep=400, workers=1).obs for t in self.teachers]
        self.obs: Any = torch.cat(seen)  # type: ignore[arg-type]

    def team(self, how: Callable[..., Any], gate: Gate | None = None) -> kd.teachers.Ensemble:
        return kd.teachers.Ensemble(self.teachers, calibrated(how, self.teachers, self.obs), gate)

    def gate(self, seed: int) -> Gate:
        gate = Gate(self.teachers[0].spec, len(self.teachers), self.obs, seed=seed)
        file = self.gates / f"gate-{seed}.pt"
        if file.exists():
            gate.load_state_dict(torch.load(file, weights_only=True))
        return gate

    def teacher(self, way: str, seed: int = 0) -> kd.Policy:
        """Who teaches, by name."""
        vote = combine.each(combine.mean, sharpen)
        match way:
            case "mean":
                return self.team(combine.mean)
            case "vote":
                return self.team(vote)
            case "product":
                return self.team(combine.product)
            case "confident":
                return self.team(combine.confident)
            case "best by value":
                gammas = [t.origin.gamma for t in self.teachers]
                return self.team(partial(combine.best_by_value, gammas=gammas))
            case "gate":
                return self.team(combine.mean, self.gate(seed))
            case "gated vote":
                return self.team(vote, self.gate(seed))
        return self.teachers[self.names.index(way)]

    def train_gate(self, seed: int, steps: int) -> dict[str, Any]:
        """A gate for this seed, on reward alone; its ensemble acts by a vote of the teachers' modes."""
        gate = Gate(self.teachers[0].spec, len(self.teachers), self.obs, seed=seed)
        team = self.team(combine.each(combine.mean, sharpen), gate)
        taken = 0

        def note(update: kd.Update) -> None:
            nonlocal taken
            taken = update.progress.env_steps

        kd.reinforced.train_gate(
            team, self.recipe, steps=steps, config=REWARD, sample=self.obs, seed=seed, on_update=note
        )
        torch.save(gate.state_dict(), self.gates / f"gate-{seed}.pt")
        said = team.ask(self.obs)
        shares = gate(self.obs, said).detach().flatten(1).mean(1)
        return {"steps": taken, "shares": [round(float(s), 3) for s in shares]}

    def act(self, way: str, seed: int) -> dict[str, Any]:
        try:
            score = kd.evaluate(self.teacher(way, seed), self.recipe, 400, seed=_ACTORS, workers=1)
        except PolicykdError as why:
            return {"error": str(why)}
        return {"mean": score.mean, "ci": score.ci(), "length": score.mean_length}

    def distil(self, way: str, seed: int) -> dict[str, Any]:
        report = kd.distill(
            self.teacher(way, seed),
            env=self.recipe,
            hidden=(64, 64),
            seed=seed,
            episodes=400,
            max_episodes=400,
            workers=1,
        )
        found = report.to_dict()
        return {
            k: found[k] for k in ("teacher", "student", "random", "retention", "agreement", "env_steps", "stopped_by")
        }


def main() -> None:
    """Every cell that is not in the file yet, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--only", nargs="*", default=list(_AGENTS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--part", nargs="*", default=["actors", "gates", "students"])
    parser.add_argument("--ways", nargs="*", default=["mean", "product", "confident", "gate"], help="of the students")
    parser.add_argument("--gate-steps", type=int, default=300_000)
    parser.add_argument("--save", type=Path, default=Path("runs/teachers.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.save.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, dict[str, Any]] = {}
    if args.save.exists():
        done = {r["cell"]: r for r in map(json.loads, args.save.read_text().splitlines())}
    bench = Bench(args.agents, args.only, args.save.parent)

    def cell(name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in done:
            done[name] = {"cell": name, **compute()}
            with args.save.open("a") as out:
                out.write(json.dumps(done[name]) + "\n")
        return done[name]

    if "actors" in args.part:
        print("| who acts | return, 400 episodes [95 %] | mean length |\n|---|---|---|", flush=True)
        for way in [*args.only, "mean", "vote", "product", "confident", "best by value"]:
            print(_actor(way, cell(f"actor {way}", partial(bench.act, way, 0))), flush=True)
    if "gates" in args.part:
        print(
            "\n| gate, seed | return, 400 episodes [95 %] | mean length | mean shares |\n|---|---|---|---|", flush=True
        )
        for seed in args.seeds:
            made = cell(f"gate {seed}", partial(bench.train_gate, seed, args.gate_steps))
            for way in ("gate", "gated vote"):
                row = _actor(f"{way} {seed}", cell(f"actor {way} {seed}", partial(bench.act, way, seed)))
                print(f"{row} {made['shares']} |", flush=True)
        for way in ("gate", "gated vote"):
            means = [done[f"actor {way} {seed}"]["mean"] for seed in args.seeds]
            print(f"\n{way}: mean return over seeds {student_t_interval(means)}", flush=True)
    if "students" in args.part:
        _students(bench, args, cell)


def _actor(name: str, r: dict[str, Any]) -> str:
    if "error" in r:
        return f"| {name} | refused: {r['error']} ||"
    return f"| {name} | {r['mean']:.1f} [{r['ci'][0]:.1f}, {r['ci'][1]:.1f}] | {r['length']:.0f} |"


def _students(bench: Bench, args: argparse.Namespace, cell: Callable[..., dict[str, Any]]) -> None:
    best = max(args.only, key=lambda name: cell(f"actor {name}", partial(bench.act, name, 0))["mean"])
    # Seed by seed, so that a table that is cut off still compares like with like.
    for seed in args.seeds:
        for way in [best, *args.ways]:
            cell(f"student {way} {seed}", partial(bench.distil, way, seed))
    print(
        f"\n| student of | retention in the scale of {best} [95 % t] | less its own student's, paired | its teacher |"
    )
    print("|---|---|---|---|")
    kept: dict[str, list[float]] = {}
    for way in [best, *args.ways]:
        rows = [cell(f"student {way} {seed}", dict) for seed in args.seeds]
        own = [cell(f"student {best} {seed}", dict) for seed in args.seeds]
        kept[way] = [
            (r["student"]["return_mean"] - o["random"]["return_mean"])
            / (o["teacher"]["return_mean"] - o["random"]["return_mean"])
            for r, o in zip(rows, own, strict=True)
        ]
        less = student_t_interval([a - b for a, b in zip(kept[way], kept[best], strict=True)]) if way != best else "-"
        teachers = sum(r["teacher"]["return_mean"] for r in rows) / len(rows)
        print(f"| {way} | {student_t_interval(kept[way])} | {less} | {teachers:.1f} |", flush=True)


if __name__ == "__main__":
    main()
