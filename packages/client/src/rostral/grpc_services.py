"""What a gRPC service that is built on Rostral listens with. Apart from `services`: imports grpc.

Re-exports, for packages above this one; the code and its documentation are in
``rostral_gcs.channels``.
"""

from __future__ import annotations

from rostral_gcs.channels import add_port

__all__ = ["add_port"]
