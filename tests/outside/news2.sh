# NEWS2 over all combinations of the chart's boundaries, both scales, against an
# independent implementation.
python_with "vitalscore==0.1.1"
cargo build --locked --quiet --example news2
"$(dirname "$vitals")/examples/news2" | "$python" tests/outside/news2.py
