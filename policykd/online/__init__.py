"""A student that learns inside a loop that is not ours, from a teacher that may be slow, remote or gone; no world."""

from __future__ import annotations

from policykd.online.answers import Answer, RemoteTeacher
from policykd.online.distiller import OnlineDistiller
from policykd.online.drift import PageHinkley, Watch
from policykd.online.memory import MEMORIES, Memory, Reservoir
from policykd.online.post import TeacherSilent
from policykd.online.publish import Published
from policykd.online.remote import Threaded
from policykd.online.settings import OnlineConfig
from policykd.online.status import Status

__all__ = [
    "MEMORIES",
    "Answer",
    "Memory",
    "OnlineConfig",
    "OnlineDistiller",
    "PageHinkley",
    "Published",
    "RemoteTeacher",
    "Reservoir",
    "Status",
    "TeacherSilent",
    "Threaded",
    "Watch",
]
