# ${generated_comment}
SKIPPED = [
${skipped}
]
