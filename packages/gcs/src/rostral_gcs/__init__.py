"""The Global Control Store of Rostral: control state that is sharded, durable and watchable."""
