"""A suite."""

from collections.abc import Sequence

from unconcept.evaluation.suites.registry import Suite, suites
from unconcept.prompts.checks import Check, GroupSizes


def ask(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """The bare name of every concept."""
    prompts = [(name, sizes.prompt(name, number)) for name in concepts for number in range(sizes.direct)]
    return [Check(prompt, "direct", name, "object", (name,)) for name, prompt in prompts]


suites.register("toy-names")(
    Suite("toy-names", "names alone", GroupSizes(2, 0), ask, attacks=("toy-shout",), published_questions=ask)
)
