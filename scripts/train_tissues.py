"""Train the tissue network on scans generated from prepared label maps.

    python scripts/prepare_scans.py SCANS prepared_maps --brain-masks masks --label-maps LABELS
    python scripts/train_tissues.py prepared_maps [more folders …] out/tissue

Writes <output>/checkpoint.pt every few minutes, which a repeated call goes on from, and at the end
<output>/model_tissue.pt, the weights, and <output>/tissue.json, how they were trained. A map whose case is in the split
file's other subsets is left out; those of people whom the split does not know are used. Values are those of
configs/tissue.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from itermask3d import BUNDLE_ROOT
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.training.prepared import PreparedDataset, list_prepared
from itermask3d.training.tissue_training import TissueTraining, TissueTrainingSettings, save_tissue_weights
from monai.bundle import ConfigParser
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ("steps", "batch_size", "learning_rate", "weight_decay", "average", "mixed_precision", "seed")


def main() -> None:
    arguments = parse()
    config = ConfigParser(ConfigParser.load_config_file(arguments.config))
    if arguments.steps:
        config["steps"] = arguments.steps
    try:
        items = training_maps(arguments.maps, arguments.split_file)
        training = training_of(config, items, torch.device(arguments.device))
        checkpoint = arguments.output / "checkpoint.pt"
        if checkpoint.is_file():
            training.resume(checkpoint)
        arguments.output.mkdir(parents=True, exist_ok=True)
        run(training, checkpoint)
    except (ScanError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    save_tissue_weights(training.averaged.module, arguments.output / "model_tissue.pt")
    record = {"config": config.get(), "cases": [item["case"] for item in items], "torch": torch.__version__}
    write_atomically(json.dumps(record, indent=1) + "\n", arguments.output / "tissue.json")
    print(f"{training.step} steps on {len(items)} tissue maps: {arguments.output / 'model_tissue.pt'}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("maps", nargs="+", type=Path, metavar="FOLDER", help="of scripts/prepare_scans.py --label-maps")
    parser.add_argument("output", type=Path)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/tissue.json")
    parser.add_argument("--split-file", type=Path, default=Path(BUNDLE_ROOT, "configs/split_t1_2mm.json"))
    parser.add_argument("--steps", type=int, help="default: that of the config")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def training_maps(folders: list[Path], split_file: Path) -> list[dict[str, Any]]:
    """Prepared maps of the training's people, and of people in no subset."""
    split = json.loads(split_file.read_text())
    kept_back = {case for subset, cases in split.items() if subset != "train" for case in cases}
    items = [item for folder in folders for item in list_prepared(folder) if item["case"] not in kept_back]
    if not items:
        raise ScanError(f"'{folders[0]}' holds no tissue map outside the other subsets of '{split_file}'")
    return items


def training_of(config: ConfigParser, items: list[dict[str, Any]], device: torch.device) -> TissueTraining:
    maps = PreparedDataset(
        items,
        device=device,
        volume="tissues",
        spacing_mm=float(config["spacing_mm"]),
        spatial_size=config["spatial_size"],
    )
    settings = TissueTrainingSettings(**{name: config[name] for name in SETTINGS})
    samples = config.get_parsed_content("samples")
    return TissueTraining(maps, samples, settings, channels=config["channels"])


def run(training: TissueTraining, checkpoint: Path) -> None:
    smooth = 0.0
    with tqdm(total=training.settings.steps, initial=training.step, unit="step", mininterval=20) as bar:

        def tell(step: int, loss: float) -> None:
            nonlocal smooth
            smooth = loss if not smooth else 0.98 * smooth + 0.02 * loss
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{smooth:.3f}", refresh=False)

        training.run(checkpoint, tell=tell)


if __name__ == "__main__":
    main()
