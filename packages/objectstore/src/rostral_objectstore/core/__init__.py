"""Policies of the store: plain functions of what they are told, with no store, socket or clock."""
