"""Rendering of a model's own chat template.

A template comes with the model file and is therefore untrusted: it is rendered in Jinja's immutable sandbox.
The names and filters a template may use follow Hugging Face's `apply_chat_template`.
"""
