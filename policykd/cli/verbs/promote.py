"""``policykd promote``: the one door from a run to the shelf."""

from __future__ import annotations

from typing import Any

from policykd.cli.arguments.promote import Arguments
from policykd.cli.screen import Screen, span
from policykd.run import promote

__all__ = ["run"]

_LARGE = 512 * 1024


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Put it there; returns the card and the folder."""
    card = promote(args.run, args.name, args.out, size=args.size, licence=args.licence, dry_run=args.dry_run)
    score = card["score"]
    rows = [
        ("agent", f"{args.out / args.name}"),
        ("what", f"{card['algo']} {card['kind']} for {card['env_id']}"),
        ("return", f"{span(score['return_mean'], score['return_ci'])} over {score['episodes']} episodes"),
        ("retention", span(card.get("retention"), card.get("retention_ci"), 3)),
        ("parameters", f"{card['params']:,}"),
        ("bytes", f"{card['bytes']:,}"),
    ]
    screen.table("promoted" if not args.dry_run else "would be promoted", ("", ""), [row for row in rows if row[1]])
    if card["bytes"] > _LARGE:
        screen.hint(f"{card['bytes']:,} bytes are much for a repository: the habit is at most {_LARGE:,}")
    return {"card": card, "folder": str(args.out / args.name)}
