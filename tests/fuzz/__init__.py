"""Coverage-guided fuzzing of the readers of untrusted files, and the corpus that it grew.

    pip install atheris && python -m tests.fuzz.run gguf -max_total_time=300
    python -m tests.fuzz.run safetensors -max_total_time=300

The tests replay the whole corpus, without atheris.
"""
