"""The Produce request beside the same one of aiokafka."""

from __future__ import annotations

from aiokafka.protocol.produce import ProduceRequest as PlainProduceRequest
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.produce import ProduceRequest

ANY_KAFKA = {0: (3, 13)}  # versions of Produce, as brokers offer them
partitions = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.binary(max_size=40).map(bytearray)), max_size=3)
topics = st.lists(st.tuples(st.text(max_size=9), partitions), max_size=3)


@given(topics, st.text(max_size=9), st.integers(0, 2**31 - 1))
def test_the_request_has_the_bytes_that_aiokafka_makes_of_it(
    topics: list[tuple[str, list[tuple[int, bytearray]]]], transactional_id: str, timeout_ms: int
) -> None:
    ours = ProduceRequest(transactional_id, timeout_ms, topics).prepare(ANY_KAFKA)
    plain = PlainProduceRequest(transactional_id, -1, timeout_ms, topics).prepare(ANY_KAFKA)
    assert ours.encode() == plain.encode()
    assert (ours.API_KEY, ours.API_VERSION, ours.RESPONSE_TYPE) == (0, 7, plain.RESPONSE_TYPE)
