"""The study of docs/results.md: which runs it takes, running them, and the tables that they give.

    python -m study --data data --output_dir output/study      # hours on two cores; resumes where it was stopped
    python -m study --small --output_dir output/small          # the same on generated data, minutes
    python -m study.tables output/study                        # the tables of docs/results.md from these folders

`plan` says which runs, as command lines of the entry scripts; `lists` holds their algorithm lists; `tables` and
`beyond` read the finished folders; `page` and `beyond_page` turn the tables into sentences.
"""
