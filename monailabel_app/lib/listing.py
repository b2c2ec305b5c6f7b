"""What a PACS holds, listed cheaply: one question for all series, and a look at a study only when it is needed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import requests
from pydicom.dataset import Dataset

from lib.errors import RequestError
from lib.series import Series, describe, from_dicomweb, suitability

__all__ = ["Listing"]

logger = logging.getLogger(__name__)

FRESH_S = 3.0
"""How long a list is taken for the PACS's present state when only counts are asked for."""

FIRST_WAIT_S, WAIT_S = 2.0, 0.05
"""How long a question for counts waits for a new list: without any, and with an older one."""


class Listing:
    """The MR series of a PACS, in two depths.

    A *listed* series is known from the answer to one question for all of them. A *described* one was looked at, with
    all headers of those that may suit, when somebody opened its study or wants to run it.

    Args:
        client: a ``dicomweb_client.DICOMwebClient``.
        clock: seconds.
    """

    def __init__(self, client: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._listed: dict[str, Series] = {}
        self._described: dict[str, list[Series]] = {}
        self._asked_at: float | None = None
        self._asking = threading.Lock()
        self._state = threading.Lock()
        self._refreshing: threading.Thread | None = None

    def listed(self) -> list[Series]:
        """All MR series of the PACS, asked now; a series that was described is returned as described.

        Raises:
            RequestError: with status 503 if the PACS does not answer.
        """
        with self._asking:
            self._ask_for_all()
        return self.remembered()

    def remembered(self) -> list[Series]:
        """All series of the last answer; nothing is asked."""
        known = {series.uid: series for study in self._described.values() for series in study}
        return [known.get(uid, series) for uid, series in self._listed.items()]

    def counted(self) -> list[Series]:
        """As :meth:`remembered`, and brought up to date behind the scenes: a PACS that is silent delays nobody."""
        fresh = self._asked_at is not None and self._clock() - self._asked_at < FRESH_S
        if not fresh:
            with self._state:
                if self._refreshing is None or not self._refreshing.is_alive():
                    self._refreshing = threading.Thread(target=self._refresh, daemon=True)
                    self._refreshing.start()
                refreshing = self._refreshing
            refreshing.join(FIRST_WAIT_S if self._asked_at is None else WAIT_S)
        return self.remembered()

    def study(self, study: str) -> list[Series]:
        """All series of a study, described; asked anew where its series have changed.

        Raises:
            RequestError: with status 503 if the PACS does not answer.
        """
        try:
            found = self._client.search_for_series(study_instance_uid=study)
            counts = {series.uid: series.instances for series in map(_from_listing, found)}
            known = {series.uid: series.instances for series in self._described.get(study, [])}
            if any(uid not in known or count > known[uid] for uid, count in counts.items()):
                self._described[study] = from_dicomweb(self._client, study)
        except requests.RequestException as error:
            raise RequestError(503, f"the PACS does not describe study {study} ({_last(error)})") from error
        kept = [series for series in self._described.get(study, []) if series.uid in counts]
        self._described[study] = kept
        return kept

    def find(self, uid: str) -> Series | None:
        """A series, described; ``None`` where the PACS has no such MR series.

        Raises:
            RequestError: with status 503 if the PACS does not answer.
        """
        for series in (series for study in self._described.values() for series in study):
            if series.uid == uid:
                return series if series.modality == "MR" else None
        listed = self._listed.get(uid) or self._search(uid)
        if listed is None or not listed.study:
            return None
        found = next((series for series in self.study(listed.study) if series.uid == uid), None)
        return found if found and found.modality == "MR" else None

    def described_study(self, series: Series) -> list[Series]:
        """What is known of a series' study; nothing is asked."""
        return self._described.get(series.study, [series])

    def offered(self) -> list[str]:
        """UIDs of the series that suit as far as is known, in the PACS's order, asked now."""
        return [series.uid for series in self.listed() if suitability(series).suitable]

    def _search(self, uid: str) -> Series | None:
        found = self._questioned({"SeriesInstanceUID": uid})
        return next((series for series in found if series.uid == uid), None)

    def _refresh(self) -> None:
        try:
            self.listed()
        except RequestError as error:
            logger.warning("The list of series is that of before: %s", error.message)

    def _ask_for_all(self) -> None:
        known = self._listed
        listed: dict[str, Series] = {}
        for item in self._questioned_raw({"Modality": "MR"}):
            uid, count = _first(item, "0020000E"), int(_first(item, "00201209") or 0)
            old = known.get(uid)
            listed[uid] = old if old and old.instances == count else _from_listing(item)
        self._listed = listed
        self._asked_at = self._clock()

    def _questioned(self, query: Mapping[str, str]) -> list[Series]:
        return [_from_listing(item) for item in self._questioned_raw(query)]

    def _questioned_raw(self, query: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        try:
            return list(self._client.search_for_series(search_filters=dict(query)))
        except requests.RequestException as error:
            raise RequestError(503, f"the PACS does not answer ({_last(error)})") from error


def _from_listing(item: Mapping[str, Any]) -> Series:
    count = int(_first(item, "00201209") or 0)
    return describe([Dataset.from_json(dict(item))], instances=count)


def _first(item: Mapping[str, Any], tag: str) -> str:
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _last(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
