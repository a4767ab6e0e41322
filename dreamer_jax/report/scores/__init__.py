"""Scores of runs, statistics over them, and the published figures to compare with.

    score.py       the score of a run, and the frames that it takes to reach one
    published.py   published scores and curves, the normalisations, the paper's four aggregates
    statistics.py  mean, median, IQM, optimality gap, their intervals; profiles; improvement

docs/evaluation.md defines what is measured. Start with `score.py`.
"""
