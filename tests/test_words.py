"""Names in code and configs are the field's, one word a thing."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("bundle/itermask3d", "bundle/configs", "configs", "scripts", "monailabel_app", "tests")
SUFFIXES = {".py", ".json", ".js", ".css", ".html", ".j2", ".md"}
ITSELF = {"tests/test_words.py", "tests/docs/test_documents.py"}

OLD = {
    "predicted variance": r"(?i)fore(tell|told)|expected[_ ]?error",
    "synthetic anomaly": r"(?i)disturb",
    "artefact": r"(?i)simulate_faults|faulted|fault_of|FaultRecord|fault_table|fault_matrix",
    "in_distribution": r"in_domain|(?i:outside the (training )?domain)",
    "agnostic": r"model_any\b|any_contrast|domain_any\b|calibration_any\b|\"--model\", \"any\"",
    "prepared scans, device-side batches": r"(?i)\b(un)?pack(ed|s|ing)?\b|\bpack_|_pack(ed)?(_|\b)|drawn[ _]?batches",
    "clamp": r"settings\.hold\(",
    "ablation": r"configs/studies|study_table|study_recipe",
    "masked, reconstructed": r"(?i)paint(ed)?[-_ ]?back|hidden_brain|n_hidden|voxels_are_hidden",
    "single-pass": r"(?i)one[-_ ]?shot",
    "contrast-enhanced T1": r"(?i)with agent\b",
    "robust SD": r"(?i)robust scales",
    "prompts": r"\bGuidance\b|apply_guidance|inference.guidance",
    "metrics, features, statistics": r"\bfigures(\[|_of)|[._]figures\b|(Scan|Size)Figures|FIGURES\b",
    "overview": r"picture\.png|(save|draw)_picture|no[-_]picture",
    "site training": r"own_page|make own\b|(?i:own training)",
    "version 0.1, 0.2, 0.3": r"(?i)\b(first|second|third) weights",
}
"""What is said now, and a pattern of what was said."""


def files() -> list[Path]:
    """Texts of the folders, without what tests leave behind."""
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES]
    return [path for path in found if "__pycache__" not in path.parts and str(path.relative_to(ROOT)) not in ITSELF]


@pytest.mark.parametrize("word", OLD)
def test_an_old_word_stands_in_no_code_and_no_config(word):
    pattern = re.compile(OLD[word])
    told = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line) or pattern.search(path.name)
    ]
    assert not told, f"say '{word}':\n" + "\n".join(told)
