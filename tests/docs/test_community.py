"""What a public host of the repository reads: templates, the workflow, the citation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / ".github"


def test_the_public_workflow_runs_make_targets_alone_and_they_exist():
    text = (HOST / "workflows" / "checks.yml").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [step["run"] for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"] if "run" in step]
    assert {"make test", "make wheel-check", "make docs", "make zoo", "make test-slow"} == set(commands)
    assert {command.removeprefix("make ") for command in commands} <= targets
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("path", sorted((HOST / "ISSUE_TEMPLATE").glob("*.md")), ids=lambda path: path.stem)
def test_a_template_of_an_issue_has_a_name_and_says_what_it_is_for(path):
    front = yaml.safe_load(path.read_text().split("---\n")[1])
    assert set(front) == {"name", "about"}


def test_reports_ask_for_no_scan_of_a_person_and_for_what_is_installed():
    text = (HOST / "ISSUE_TEMPLATE" / "bug.md").read_text()
    assert "Never attach a scan of a person" in text
    assert "itermask3d info --json" in text
    assert "make test" in (HOST / "pull_request_template.md").read_text()


def test_the_citation_names_the_paper_and_the_licence():
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert facts["license"] == "Apache-2.0"
    assert facts["preferred-citation"]["doi"] == "10.1016/j.media.2025.103763"
