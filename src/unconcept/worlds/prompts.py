"""The captions that `moji` understands: the same few forms in training and in evaluation."""

_CAPTION_FORMS = ("{name}", "a {name}", "a {name} in {style} style", "{style} style {name}")


def object_caption(name: str, style: str | None = None, form: int | None = None) -> str:
    """Caption one object: forms 0 and 1 have no style, 2 and 3 have one; by default the form with an article."""
    if form is None:
        form = 1 if style is None else 2
    return _CAPTION_FORMS[form].format(name=name, style=style)


def pair_caption(left: str, right: str, style: str | None = None) -> str:
    """Caption two objects, one in the left half and one in the right half."""
    return f"a {left} and a {right}" + (f" in {style} style" if style else "")
