"""Where reading goes on: the offsets of the query's checkpoint, brought in line with the topics that are to be read.

Spark keeps, for every batch, how far each topic was read. It takes a topic that is missing later, or begins elsewhere, for lost
data, and a topic that was deleted and created again for one whose first messages were read long ago. So between two runs of the
query, when the last batch is committed, the entry of that batch is written anew: without topics that are read no more (their
offsets are kept in the plan), with those that are new, and from the beginning of those that were created again.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from streaming.plan import Plan, Topic

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient
    from pyspark.sql import SparkSession

    from streaming.spec import Kafka

_TIMEOUT_S = 30


class Log:
    """A folder of numbered files of Spark's checkpoint, through Hadoop's file system, as Spark itself writes them."""

    def __init__(self, spark: "SparkSession", checkpoint: str, name: str) -> None:
        context: Any = spark.sparkContext  # there is no public way to Hadoop's file system
        self._gateway = context._gateway  # noqa: SLF001
        self._jvm = self._gateway.jvm
        conf: Any = spark._jsc.hadoopConfiguration()  # noqa: SLF001
        self._folder = self._path(f"{checkpoint}/{name}")
        self._fs: Any = self._folder.getFileSystem(conf)
        self._context = self._jvm.org.apache.hadoop.fs.FileContext.getFileContext(self._fs.getUri(), conf)

    def numbers(self) -> list[int]:
        """Of all files, ascending."""
        if not self._fs.exists(self._folder):
            return []
        names = [status.getPath().getName() for status in self._fs.listStatus(self._folder)]
        return sorted(int(name) for name in names if name.isdigit())

    def read(self, number: int) -> str:
        """The text of one file."""
        stream = self._fs.open(self._path(f"{self._folder.toString()}/{number}"))
        try:
            return str(self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
        finally:
            stream.close()

    def write(self, number: int, text: str) -> None:
        """Replace a file in one step."""
        part = self._path(f"{self._folder.toString()}/.{number}.driftline.tmp")
        stream = self._fs.create(part, True)  # overwrite
        stream.write(bytearray(text.encode()))
        stream.close()
        rename: Any = self._jvm.org.apache.hadoop.fs.Options.Rename
        options = self._gateway.new_array(rename, 1)
        options[0] = rename.OVERWRITE
        self._context.rename(part, self._path(f"{self._folder.toString()}/{number}"), options)

    def _path(self, name: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(name)


def is_settled(spark: "SparkSession", checkpoint: str) -> bool:
    """Whether the last batch that was planned is committed: what a batch is done by may change only then."""
    planned, committed = Log(spark, checkpoint, "offsets").numbers(), Log(spark, checkpoint, "commits").numbers()
    return not planned or (bool(committed) and committed[-1] >= planned[-1])


def reconcile(
    spark: "SparkSession",
    checkpoint: str,
    plan: Plan,
    kafka: Mapping[str, "Kafka"],
    ids: Mapping[str, str],
    save: Callable[[], None],
) -> list[str]:
    """Bring the offsets in line with a plan, and the plan's topics with Kafka; returns the topics that were created again.

    Parameters
    ----------
    plan
        Its `topics` are brought up to date; to be written by the caller before the query starts.
    kafka
        Topic that is to be read -> the section of its model.
    ids
        Topic -> Kafka's id of it.
    save
        Writes the plan. Called before offsets leave the log that are kept in the plan only from then on; what a topic is now (its id) must on
        the contrary not be on disk before the log says where it begins.
    """
    log = Log(spark, checkpoint, "offsets")
    numbers = log.numbers()
    last = numbers[-1] if numbers else None
    offsets: dict[str, dict[str, int]] = {} if last is None else json.loads(log.read(last).splitlines()[2])
    gone = [name for name in set(offsets) - set(kafka) if name in plan.topics]
    for name in gone:
        plan.topics[name].left = {int(partition): offset for partition, offset in offsets[name].items()}
    if gone:
        save()
    again = [name for name in kafka if name in plan.topics and plan.topics[name].id != ids[name]]
    for name in kafka:
        known = plan.topics.setdefault(name, Topic(ids[name]))
        if name in again:
            plan.topics[name] = Topic(ids[name], known.lives + 1)
    if last is None:
        return again
    kept = {name: where for name, where in offsets.items() if name in kafka and name not in again}
    begun = {name: _beginning(name, kafka[name], plan.topics[name], again) for name in kafka if name not in kept}
    if kept.keys() == offsets.keys() and not begun:
        return again
    for name in begun:
        plan.topics[name].left = {}
    # The entry before is where a batch that is not committed begins: of a topic that was created again nothing of that batch is there.
    committed = Log(spark, checkpoint, "commits").numbers()
    entries = [last] if committed and committed[-1] >= last else numbers[-2:]
    for number in entries:
        version, metadata, *sources = log.read(number).splitlines()
        mine = {name: where for name, where in json.loads(sources[0]).items() if name in kept}
        whole = mine | {name: {str(partition): at for partition, at in where.items()} for name, where in begun.items()}
        log.write(number, "\n".join([version, metadata, json.dumps(whole, separators=(",", ":"))]))
    return again


def _beginning(name: str, kafka: "Kafka", topic: Topic, again: Iterable[str]) -> dict[int, int]:
    """Where reading of a topic begins."""
    from confluent_kafka import Consumer, TopicPartition

    options: dict[str, Any] = {
        **kafka.for_confluent(),
        "group.id": "driftline-offsets",
        "enable.auto.commit": False,
        "log_level": 0,
    }
    consumer = Consumer(options)
    try:
        partitions = consumer.list_topics(name, _TIMEOUT_S).topics[name].partitions
        found = {}
        for partition in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), _TIMEOUT_S)
            from_end = kafka.starting_offsets == "latest" and name not in again
            found[partition] = min(max(topic.left.get(partition, high if from_end else low), low), high)
        return found
    finally:
        consumer.close()


def topic_ids(client: "AdminClient", topics: Iterable[str]) -> dict[str, str]:
    """Kafka's ids of the topics that there are."""
    from confluent_kafka import KafkaException, TopicCollection

    found = {}
    for name, future in client.describe_topics(TopicCollection(list(topics)), request_timeout=_TIMEOUT_S).items():
        try:
            found[name] = str(future.result().topic_id)
        except KafkaException:
            continue  # it is not there now; the query says so, or it is made again
    return found
