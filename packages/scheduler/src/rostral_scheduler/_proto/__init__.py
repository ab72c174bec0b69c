"""What protoc makes of the .proto files in here; written by ``tox -e protos``, never by hand."""
