"""How the metrics of several workers become one."""

from prometheus_client.parser import text_string_to_metric_families

from service import metrics
from service.workers.messages import FROM_WORKER, Combination, Family, Measured, Sample, Snapshot, line
from service.workers.totals import combined, cumulative


def family(name: str, kind: str, combination: Combination, *samples: Sample) -> Family:
    return Family(name, kind, "What it counts.", combination, samples)


def answered(count: float, created: float, status: str = "200") -> Family:
    labels = {"status": status}
    samples = (Sample("answered_total", labels, count), Sample("answered_created", labels, created))
    return family("answered", "counter", "sum", *samples)


def values(snapshot: Snapshot) -> dict[str, float]:
    return {sample.name + str(sample.labels or ""): sample.value for one in snapshot for sample in one.samples}


def test_counts_are_added_up_since_the_oldest_began() -> None:
    both = combined([(answered(3, 200.0),), (answered(4, 100.0), answered(1, 150.0, "503"))])
    assert len(both) == 1
    assert values(both) == {
        "answered_total{'status': '200'}": 7,
        "answered_created{'status': '200'}": 100.0,
        "answered_total{'status': '503'}": 1,
        "answered_created{'status': '503'}": 150.0,
    }


def test_the_least_position_counts_unless_it_is_unknown() -> None:
    def position(value: float) -> Snapshot:
        return (family("position", "gauge", "least", Sample("position", {}, value)),)

    assert values(combined([position(9), position(7)])) == {"position": 7}
    assert values(combined([position(0), position(7)])) == {"position": 7}
    assert values(combined([position(0), position(0)])) == {"position": 0}


def test_only_the_counts_of_an_ended_worker_are_kept() -> None:
    size = family("size", "gauge", "sum", Sample("size", {}, 5.0))
    duration = family("duration", "histogram", "sum", Sample("duration_count", {}, 2.0))
    assert cumulative((answered(1, 1.0), size, duration)) == (answered(1, 1.0), duration)


def test_combining_one_process_changes_no_metric() -> None:
    metrics.count(metrics.LISTING, 200, 0.003)
    before = metrics.snapshot()
    sent = FROM_WORKER.decode(line(Measured(before)))
    assert isinstance(sent, Measured)
    text = metrics.exposition(combined([sent.metrics])).decode()
    read = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in text_string_to_metric_families(text)
        for sample in metric.samples
    }
    for one in before:
        for sample in one.samples:
            assert read[sample.name, tuple(sorted(sample.labels.items()))] == sample.value
    assert len(read) == sum(len(one.samples) for one in before)
