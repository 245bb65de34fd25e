"""Plans and runs the task that scores a chunk of stored pictures with a judge."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...core.hashing import hash_json
from ..judging.judge import Judge
from .picture_store import PictureStore


@dataclass(frozen=True)
class ScoreTask:
    """Scores stored pictures with a judge, one question for each picture."""

    judge: Judge
    pictures: tuple[str, ...]
    questions: tuple[str, ...]
    kind: str = "score"

    @property
    def id(self) -> str:
        return hash_json([self.kind, self.judge.key, *self.pictures, *self.questions])

    @property
    def size(self) -> int:
        return len(self.pictures)

    def is_done(self, store: PictureStore) -> bool:
        pairs = list(zip(self.pictures, self.questions, strict=True))
        return len(store.load_scores(self.judge.key, pairs)) == len(pairs)

    def run(self, store: PictureStore) -> None:
        rows = self.judge.open().score(torch.stack([store.load(key) for key in self.pictures]), list(self.questions))
        store.save_scores(self.judge.key, zip(self.pictures, self.questions, rows, strict=True))


def plan_scores(judge: Judge, asked: Sequence[tuple[str, str]], store: PictureStore) -> list[ScoreTask]:
    """Plan chunks of (picture, question) pairs that have a stored picture but no raw score yet."""
    known = store.load_scores(judge.key, asked)
    wanted = [pair for pair in dict.fromkeys(asked) if pair not in known and store.has(pair[0])]
    tasks = []
    count = judge.reader.pictures_at_once
    for start in range(0, len(wanted), count):
        pictures, questions = zip(*wanted[start : start + count], strict=True)
        tasks.append(ScoreTask(judge, pictures, questions))
    return tasks
