"""An edit on the stock pipeline of a sister family, whose weights have the same names: refused in one line."""

import pytest

from tests import tiny
from tests.methods.test_contract import made
from unconcept.core.errors import EditError

SISTERS = [
    ("flux2_klein", "flux2"),
    ("flux2", "flux2_klein"),
    ("chroma", "flux"),
    ("flux", "chroma"),
    ("zimage", "qwenimage"),
    ("qwenimage", "zimage"),
]


@pytest.mark.parametrize(("own", "sister"), SISTERS)
def test_an_edit_of_a_sister_pipeline_is_one_line(own, sister) -> None:
    pipe = tiny.pipeline(sister)
    with pytest.raises(EditError, match=rf"\b{own} model") as error:
        made("uce", own).apply_to(pipe)
    assert sister in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert "progress_bar" not in vars(pipe)
