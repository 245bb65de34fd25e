"""A form of prompt files."""

from collections.abc import Iterable, Mapping

from unconcept.prompts.forms import PromptFileContext, prompt_form
from unconcept.prompts.sets import PromptItem


@prompt_form("toy-cells", "table", ("toy_text", "toy_concept"))
def read_toy_cells(row: Mapping[str, str], given: PromptFileContext) -> Iterable[PromptItem]:
    """Two columns, text and concept."""
    yield PromptItem(row["toy_text"], row["toy_concept"], "direct")
