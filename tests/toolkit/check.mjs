// Checks of a package: each that holds is a line `ok: PACKAGE: WHAT`, one that does not fails the step.
import { setFailed } from '@actions/core'
import { deepStrictEqual } from 'node:assert'

export async function checks(name, body) {
  const same = (what, seen, expected) => {
    deepStrictEqual(seen, expected, `${what}: ${JSON.stringify(seen)}, not ${JSON.stringify(expected)}`)
    console.log(`ok: ${name}: ${what}`)
  }
  const refused = async (what, attempt, message) => {
    let error = 'nothing'
    try { await attempt() } catch (thrown) { error = thrown.message }
    same(what, error.includes(message) ? message : error, message)
  }
  try {
    await body(same, refused)
    console.log(`ok: ${name}: all`)
  } catch (error) {
    setFailed(`${name}: ${error.stack}`)
  }
}
