"""The whole join on one index: every method and every cause there is."""

from enricher import causes
from enricher._native import EvidenceIndex, encode_attributes
from enricher.join import methods
from enricher.join.joiner import Joiner
from enricher.join.methods.origin import Origins
from enricher.sampling.sampler import Sampler


def assembled(
    index: EvidenceIndex, *, enriching: bool, stamp_all: bool, host: str = "", sampler: Sampler | None = None
) -> Joiner:
    """`enriching` False: requests only pass through. `host`: see Origins."""
    origins = Origins(index, host)
    return Joiner(
        methods.build(index, origins) if enriching else (),
        causes.registry(),
        encode_attributes,
        origins if enriching else None,
        stamp_all=enriching and stamp_all,
        sampler=sampler,
    )
