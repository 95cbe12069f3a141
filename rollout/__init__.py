"""Progressive delivery for InferenceServices: canaries that judge themselves.

Needs the extra `rollout`: `pip install 'kserve-llamacpp[rollout]'`. Nothing that serves imports this package.
"""
