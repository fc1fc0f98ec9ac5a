"""The digests of published adapters, by which a server knows that their files are unchanged.

They are in the ledger, because whoever can write to an adapter's directory can write its manifest.
"""

from collections.abc import Collection, Mapping

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tempo_storage.adapters import WEIGHTS_FILE, AdapterStore, Manifest, version_of
from tempo_storage.errors import CorruptAdapterError, NotFoundError
from tempo_storage.ledger import events, versions
from tempo_storage.ledger.models import Adapter, PublishedAdapter


def add(s: Session, manifest: Manifest) -> None:
    """Keep the digests of an adapter; call it in the transaction that adds the version."""
    s.merge(PublishedAdapter(name=manifest.name, files=manifest.files))


def keep_trials(s: Session, names: Collection[str]) -> None:
    """Forget the digests of trials that are not among these names."""
    is_trial = PublishedAdapter.name.startswith("tempo-t")
    s.execute(delete(PublishedAdapter).where(is_trial, PublishedAdapter.name.not_in(names)))


def files(s: Session, name: str) -> Mapping[str, str]:
    """Return the digests of an adapter's files; {} if the ledger has none."""
    row = s.get(PublishedAdapter, name)
    return row.files if row is not None else {}


def record_corrupt(s: Session, name: str, message: str) -> None:
    """Record that an adapter's files are not those that were published."""
    if "-v" in name and s.get(Adapter, version_of(name)) is not None:
        versions.mark_corrupt(s, version_of(name), message)
    else:
        events.add(s, "adapter.corrupt", message, level="error", data={"adapter": name})


def adopt(s: Session, store: AdapterStore) -> None:
    """Give the versions that an older release published their digests, if their files are sound.

    Sound files are those that the manifest names, with the weights that the ledger names. An event
    says what was found. A version without a directory waits for the next start.
    """
    for row in s.scalars(select(PublishedAdapter).with_for_update()).all():
        if row.files:
            continue
        try:
            found = store.digests(row.name)
            listed = store.manifest(row.name).sha256
        except NotFoundError:
            continue
        except CorruptAdapterError:
            listed = {}
        weights = versions.adapter(s, version_of(row.name)).sha256
        if listed and _is_sound(found, listed, weights):
            row.files = found
            message = f"{row.name}: the ledger now keeps the digests of its files"
            events.add(s, "adapter.adopted", f"{message}, which fit its manifest")
        else:
            s.delete(row)
            message = f"{row.name}: its files do not fit its manifest; promote another version"
            record_corrupt(s, row.name, message)


def _is_sound(found: Mapping[str, str], listed: Mapping[str, str], weights: str) -> bool:
    others = {name: digest for name, digest in found.items() if name in listed}
    is_listed = others == listed and len(found) == len(listed) + 1  # and the manifest itself
    return is_listed and weights in ("", listed.get(WEIGHTS_FILE))
