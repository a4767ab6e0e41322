"""From work directories to tables, figures and a page.

    runs.py     read runs: finished, running or broken, local or copied without their replay
    tables.py   rows of scores, aggregates, ablations, grids and health
    signs.py    rules that name the likely cause of a failing run
    figures.py  learning curves, aggregates, differences, grids, diagnostics
    accept.py   thresholds such as 'median(eval_return) >= 900'
    files.py    results.csv, evaluations.csv, results.json, marl_eval.json
    page.py     index.html, with page.html, page.css and page.js
    report.py   all of these in one directory
    watch.py    a terminal table of runs and members

Only files are read, so that another machine may be writing them. Start with `runs.py`.
"""
