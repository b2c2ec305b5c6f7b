"""``itermask3d segment``: a scan, a folder of scans or a list of scans."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from itermask3d import BUNDLE_ROOT
from itermask3d.cli.common import (
    DONE,
    FAILED,
    INTERRUPTED,
    config_values,
    exclusive,
    for_machines,
    one_of,
    one_sentence,
    print_json,
    require_bundle,
)

__all__ = ["segment"]

EXAMPLES = """
itermask3d segment scan.nii.gz
itermask3d segment scans out --brain-masks masks
itermask3d segment dicom/series out --model agnostic --json > results.json
"""
SIDES = ("auto", "bright", "dark", "both", "none")
STATUS = "Exit status: 0 done, 1 some failed, 2 not started, 3 disk full, 130 Ctrl-C."


def segment(
    scan: Annotated[Path, typer.Argument(help="Scan, folder, .txt or .json list, DICOM series.")],
    output: Annotated[Path | None, typer.Argument(help="Folder (default: NAME_itermask3d beside it).")] = None,
    model: Annotated[str | None, typer.Option(help="auto (default): by the scan; t1, or agnostic.")] = None,
    side: Annotated[str | None, typer.Option(help="Suspicious: auto, bright, dark, both or none.")] = None,
    weights: Annotated[Path | None, typer.Option(help="State dict, instead of a model.")] = None,
    brain_masks: Annotated[Path | None, typer.Option(help="Folder with a brain mask for every scan.")] = None,
    brain_extraction: Annotated[str | None, typer.Option(help="How the brain is found (default: auto).")] = None,
    gamma: Annotated[float | None, typer.Option(help="Slope at which the threshold is taken.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise in the masked region.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Of the sweep: exact or fast.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Scans at once (default: 1).")] = None,
    bundle: Annotated[Path, typer.Option(help="Folder of another bundle.", show_default=False)] = Path(BUNDLE_ROOT),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do finished scans again.")] = False,
    no_overview: Annotated[bool, typer.Option("--no-overview", help="Write no overview.png.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON; all else on stderr.")] = False,
) -> None:
    """Segment one scan, a folder of scans or a list of scans.

    Every scan gets a folder with its mask, anomaly map and reconstruction on its own grid, result.json and
    overview.png. Finished scans are not done again.
    """
    exclusive(model=model, weights=weights)
    require_bundle(bundle)
    where = output or beside(scan)
    values = config_values(
        {
            "bundle_root": str(bundle),
            "dataset_dir": str(scan),
            "output_dir": str(where),
            "brain_mask_dir": None if brain_masks is None else str(brain_masks),
            "brain_extraction": brain_extraction,
            "model": model,
            "side": side,
            "ckpt_path": None if weights is None else str(weights),
            "settings::gamma": gamma,
            "settings::seed": seed,
            "settings::schedule": schedule,
            "batch_size": batch_size,
            "overwrite": overwrite or None,
            "overview": False if no_overview else None,
        }
    )
    with for_machines(as_json):
        status, results = run(bundle, values)
    show(where, results, as_json=as_json)
    raise typer.Exit(status)


def beside(scan: Path) -> Path:
    """Where results go if nobody says: beside the scan, under its name."""
    name = scan.absolute().name
    stem = name if scan.is_dir() else name.removesuffix(".gz").rpartition(".")[0] or name
    return scan.absolute().with_name(f"{stem}_itermask3d")


def run(bundle: Path, values: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Run the bundle's inference; its exit status, and by case what was found, ``None`` where nothing was."""
    import signal
    import warnings

    from monai.bundle import ConfigWorkflow

    from itermask3d.preprocessing.brain_extraction import METHODS

    one_of(values.get("brain_extraction"), METHODS, "--brain-extraction")
    one_of(values.get("settings::schedule"), ("exact", "fast"), "--schedule")
    one_of(values.get("side"), SIDES, "--side")
    warnings.simplefilter("ignore", FutureWarning)
    configs = bundle / "configs"
    workflow = ConfigWorkflow(
        config_file=str(configs / "inference.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        workflow_type="infer",
        **values,
    )
    with one_sentence():
        workflow.initialize()
        segmentation = workflow.parser.get_parsed_content("segmentation")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as a scheduler or a container ends a job
    try:
        segmentation.run()
    except SystemExit as end:
        if end.code not in (DONE, FAILED):
            raise
        return int(end.code or DONE), records_of(segmentation)
    except KeyboardInterrupt:
        print("stopped: finished scans stay; the same command goes on", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    return DONE, records_of(segmentation)


def records_of(segmentation: Any) -> dict[str, Any]:
    """What is known of each scan of a run, be it from an earlier run; ``None`` of one without a result."""
    return {item["case"]: segmentation.record(item["case"]) for item in segmentation.dataset.items()}


def show(folder: Path, results: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what was found: everything for a machine; for a person words, of one scan (a table was printed of all)."""
    found = {case: result for case, result in results.items() if result is not None}
    if as_json:
        print_json(list(found.values()))
    elif len(results) == 1:
        for case, result in found.items():
            print("\n".join(told(result, folder / case)))


def told(result: Mapping[str, Any], folder: Path) -> list[str]:
    """What a person needs of a result: the outcome in words, the regions, the warnings and where to look."""
    flagged, share = result["volumes_ml"]["anomaly"], 100 * result["flagged_share"]
    words = {
        "anomaly": f"{flagged:.1f} ml differ from what the network expects ({share:.1f} % of the brain)",
        "no_anomaly": "nothing differs from what the network expects; that does not mean that the brain is healthy",
        "fit_failed": "nothing can be said: the error curve could not be used",
    }
    lines = [f"{result['case']}: {words[result['outcome']]}"]
    for region in result["components"][:5]:
        right, front, up = region["centroid_mm"]
        lines.append(
            f"  region {region['index']}: {region['volume_ml']:.1f} ml around ({right:g}, {front:g}, {up:g}) mm"
        )
    left = len(result["components"]) - 5
    lines += [f"  and {left} smaller ones"] if left > 0 else []
    lines += [f"  note: {sentence}" for sentence in result["warnings"]]
    overview = folder / "overview.png"
    return [*lines, f"overview: {overview}" if overview.is_file() else f"files: {folder}"]
