"""MONAI's workflow of a config, for which a path on the command line is a path and never an expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.bundle import ConfigWorkflow

from itermask3d.files.literals import as_literal

__all__ = ["LITERAL_IDS", "LiteralWorkflow"]

LITERAL_IDS = ("dataset_dir", "output_dir", "brain_mask_dir", "label_dir", "split_file", "checkpoint", "ckpt_path",
               "cache_dir", "model", "brain_extraction", "bias_correction")  # fmt: skip
"""What names files and choices in this bundle's configs: never an expression, a reference or a macro."""


class LiteralWorkflow(ConfigWorkflow):
    """A ``ConfigWorkflow`` whose overrides of :data:`LITERAL_IDS` are taken as they are.

    ``python -m monai.bundle run`` hands ``--dataset_dir '$…'`` to the parser, which evaluates it: MONAI's documented
    behaviour, and a trap for a script that fills in a folder's name. The same command takes another workflow::

        python -m monai.bundle run --workflow_name itermask3d.files.literal_workflow.LiteralWorkflow \\
            --config_file configs/inference.json --dataset_dir "$FOLDER"

    Args:
        config_file, override: see ``ConfigWorkflow``; ids may be nested (``handlers::0::folder``).
        literal_ids: which overrides are literal.
    """

    def __init__(
        self, config_file: str | Sequence[str], *, literal_ids: Sequence[str] = LITERAL_IDS, **override: Any
    ) -> None:
        literal = {key: as_literal(value) if key in literal_ids else value for key, value in override.items()}
        super().__init__(config_file=config_file, **literal)
