"""Turn the demo's purchases into events, as JSON lines in order of time.

python3 deploy/demo/events.py | .venv/bin/rollcall replay --segments deploy/demo/segments.yaml --events -
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PURCHASES = Path(__file__).with_name("purchases.txt")


def main() -> None:
    rows = (line.split() for line in PURCHASES.read_text(encoding="ascii").splitlines()[1:])
    purchases = [(date, customer, dollars) for customer, date, _, dollars in rows]
    for number, (date, customer, dollars) in enumerate(sorted(purchases), start=1):
        print(event(f"cdnow-{number}", customer, date, dollars))


def event(event_id: str, customer: str, date: str, dollars: str) -> str:
    """One order at noon of its day. The total goes out digit for digit: money is exact."""
    head = {
        "event_id": event_id,
        "type": "purchase.order",
        "customer_id": customer,
        "time": f"{date[:4]}-{date[4:6]}-{date[6:]}T12:00:00Z",
    }
    properties = f'{{"order_id":"{event_id}","total":{dollars},"currency":"USD"}}'
    return json.dumps(head, separators=(",", ":"))[:-1] + f',"properties":{properties}}}'


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.stderr.close()  # the reader has seen enough, as in `| head`
