"""The inference logger: takes the CloudEvents that KServe's payload logger posts, answers once Kafka has them.

KServe's agent sends each event once and takes every answer but 200 for a failure, so 200 means that all in-sync
replicas have the event, and anything else that it may be lost.

    POST /                      one event (binary or structured mode), or a batch; each goes to the model that it names
    POST /<namespace>/<name>    the same, of this model
    POST /models/<name>         the same
    GET  /healthz               the process is there
    GET  /readyz                Kafka is there, and a topic
    GET  /metrics               counters, in the Prometheus text format
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from streaming.spec import ModelMonitor


def serve(source: "ModelMonitor | Path", spool: "Path | None" = None) -> int:
    """Run the logger until it is told to stop: `streaming.logger.server.serve`.

    The settings of this package are read where there is neither Kafka nor a server, so both are imported only here.
    """
    from streaming.logger.server import serve

    return serve(source, spool)
