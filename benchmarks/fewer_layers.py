"""`unconcept` on FLUX.2's shape with fewer layers of its language model: `python -m benchmarks.fewer_layers 10 erase`.

The three hidden states that the pipeline reads, 10, 20 and 30 of 40, are taken at the same shares of the layers.
"""

import sys

from unconcept.cli import app
from unconcept.models.families import families

WHOLE = 40  # layers of Mistral Small 3


def main() -> None:
    count = int(sys.argv.pop(1))
    encoder = families["flux2"].first_encoder
    object.__setattr__(encoder, "layers", tuple(max(1, layer * count // WHOLE) for layer in encoder.layers))
    app()


if __name__ == "__main__":
    main()
