// @actions/core: what it asks of the runner, and in the end whether its state came over to `post`.
import * as core from '@actions/core'
import * as fs from 'node:fs'
import { checks } from '../check.mjs'

if (core.getState('made')) {
  await checks('core post', same => same('state', JSON.parse(core.getState('made')), { by: ['main'] }))
} else {
  await checks('core', main)
  core.saveState('made', { by: ['main'] })
  core.setFailed('it was to be')
}

async function main(same, refused) {
  same('input', core.getInput('who'), 'Ada')
  same('input as it is', core.getInput('who', { trimWhitespace: false }), ' Ada ')
  same('boolean', core.getBooleanInput('fast'), true)
  same('lines', core.getMultilineInput('list'), ['one', 'two'])
  await refused('no input', () => core.getInput('none', { required: true }), 'Input required and not supplied: none')
  await refused('no boolean', () => core.getBooleanInput('who'), 'Input does not meet YAML 1.2')

  const secret = ['made', 'up', 'token'].join('-')
  core.setSecret(secret)
  core.info(`the secret is ${secret}`)

  core.setOutput('answer', 42)
  core.setOutput('object', { a: [1, null] })
  core.setOutput('lines', 'one\ntwo')
  core.exportVariable('FROM_CORE', 'first\nsecond')
  same('variable at once', process.env.FROM_CORE, 'first\nsecond')
  const tools = `${process.env.RUNNER_TEMP}/tools`
  fs.mkdirSync(tools)
  fs.writeFileSync(`${tools}/made-tool`, '#!/bin/sh\necho made-tool runs\n', { mode: 0o755 })
  core.addPath(tools)
  same('path at once', process.env.PATH.split(':')[0], tools)

  await core.group('A group', async () => core.info('inside'))
  core.notice('a note', { title: 'T', file: 'data/a.txt', startLine: 2 })
  core.warning('a warning')
  core.error(new Error('an error'))
  core.debug('a hidden detail')
  same('debug', core.isDebug(), false)
  core.setCommandEcho(true)
  core.setCommandEcho(false)
  await core.summary.addHeading('Report', 2).addList(['first', secret]).write()
  await refused('no id token', () => core.getIDToken(), 'ACTIONS_ID_TOKEN_REQUEST_URL')
}
