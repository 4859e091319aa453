"""Case studies: bayestl and its rivals on real tables, on the same splits.

python -m benchmarks.case_studies.run [case ...] [--seeds 5] [--jobs 2]     fills results/case_studies.csv (resumes)
python -m benchmarks.case_studies.pages                                     writes the tables and pictures of docs/case-studies

The tables are read by `bayestl.datasets` (from $BAYESTL_DATA, or downloaded). Splits are by composition, molecule or metal.
*Paired*: what the sources say of the test materials is known. *Unpaired*: nothing at all is known of them.
"""
